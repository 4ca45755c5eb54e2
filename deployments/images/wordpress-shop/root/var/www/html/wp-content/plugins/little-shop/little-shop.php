<?php
/*
 * Plugin Name: Little Shop
 * Description: Products, a cart for each browser, and orders, in tables of its own.
 * Version: 1.0
 */
declare(strict_types=1);

defined('ABSPATH') || exit;

const LITTLE_SHOP_COOKIE = 'little_shop_session';

function little_shop_table(string $name): string
{
    global $wpdb;
    return "{$wpdb->prefix}shop_{$name}";
}

register_activation_hook(__FILE__, function () {
    global $wpdb;
    require_once ABSPATH . 'wp-admin/includes/upgrade.php';
    $charset = $wpdb->get_charset_collate();
    dbDelta('CREATE TABLE ' . little_shop_table('products') . " (
        id bigint unsigned NOT NULL AUTO_INCREMENT,
        name varchar(200) NOT NULL,
        cents int unsigned NOT NULL,
        stock int unsigned NOT NULL,
        PRIMARY KEY  (id)
    ) ENGINE=InnoDB $charset;");
    dbDelta('CREATE TABLE ' . little_shop_table('carts') . " (
        session char(32) NOT NULL,
        product bigint unsigned NOT NULL,
        quantity int unsigned NOT NULL,
        PRIMARY KEY  (session,product)
    ) ENGINE=InnoDB $charset;");
    dbDelta('CREATE TABLE ' . little_shop_table('orders') . " (
        id bigint unsigned NOT NULL AUTO_INCREMENT,
        session char(32) NOT NULL,
        customer varchar(200) NOT NULL,
        cents int unsigned NOT NULL,
        items text NOT NULL,
        PRIMARY KEY  (id)
    ) ENGINE=InnoDB $charset;");
    foreach ([['Tea', 450, 20], ['Coffee', 690, 20], ['Cocoa', 520, 20]] as [$name, $cents, $stock]) {
        $wpdb->insert(little_shop_table('products'), compact('name', 'cents', 'stock'));
    }
});

function little_shop_session(): string
{
    $session = $_COOKIE[LITTLE_SHOP_COOKIE] ?? '';
    return is_string($session) && preg_match('/^[0-9a-f]{32}$/D', $session) ? $session : '';
}

function little_shop_cart(string $session): array
{
    global $wpdb;
    return $wpdb->get_results($wpdb->prepare(
        'SELECT p.id, p.name, p.cents, c.quantity FROM ' . little_shop_table('carts') . ' c JOIN '
            . little_shop_table('products') . ' p ON p.id = c.product WHERE c.session = %s ORDER BY p.id',
        $session,
    ));
}

// Takes the whole cart out of the stock, or nothing of it.
function little_shop_order(string $session, string $customer): bool
{
    global $wpdb;
    $wpdb->query('START TRANSACTION');
    $cart = little_shop_cart($session);
    $cents = 0;
    $items = [];
    foreach ($cart as $line) {
        $taken = $wpdb->query($wpdb->prepare(
            'UPDATE ' . little_shop_table('products') . ' SET stock = stock - %d WHERE id = %d AND stock >= %d',
            $line->quantity, $line->id, $line->quantity,
        ));
        if ($taken !== 1) {
            $wpdb->query('ROLLBACK');
            return false;
        }
        $cents += $line->cents * $line->quantity;
        $items[] = "{$line->quantity} x {$line->name}";
    }
    if ($cart === []) {
        $wpdb->query('ROLLBACK');
        return false;
    }
    $items = implode(', ', $items);
    $wpdb->insert(little_shop_table('orders'), compact('session', 'customer', 'cents', 'items'));
    $wpdb->delete(little_shop_table('carts'), compact('session'));
    $wpdb->query('COMMIT');
    return true;
}

add_action('init', function () {
    global $wpdb;
    $action = $_POST['little_shop'] ?? '';
    if ($action === '') {
        return;
    }
    if (!wp_verify_nonce($_POST['_wpnonce'] ?? '', 'little_shop')) {
        wp_die('This form is too old.', '', ['response' => 403]);
    }
    $session = little_shop_session();
    if ($session === '') {
        $session = bin2hex(random_bytes(16));
        setcookie(LITTLE_SHOP_COOKIE, $session, ['path' => '/', 'httponly' => true, 'samesite' => 'Lax']);
    }
    if ($action === 'add') {
        $wpdb->query($wpdb->prepare(
            'INSERT INTO ' . little_shop_table('carts') . ' (session, product, quantity) SELECT %s, id, 1 FROM '
                . little_shop_table('products') . ' WHERE id = %d ON DUPLICATE KEY UPDATE quantity = quantity + 1',
            $session, (int) ($_POST['product'] ?? 0),
        ));
    } elseif ($action === 'order') {
        $customer = trim(wp_unslash((string) ($_POST['customer'] ?? '')));
        if ($customer === '' || !little_shop_order($session, mb_substr($customer, 0, 200))) {
            wp_die('Nothing was ordered.', '', ['response' => 409]);
        }
    }
    wp_safe_redirect(home_url('/shop/'), 303);
    exit;
});

add_shortcode('little_shop', function () {
    global $wpdb;
    $session = little_shop_session();
    $nonce = wp_nonce_field('little_shop', '_wpnonce', false, false);
    $euros = fn($cents) => number_format($cents / 100, 2);
    $page = '<ul id="products">';
    foreach ($wpdb->get_results('SELECT * FROM ' . little_shop_table('products') . ' ORDER BY id') as $product) {
        $page .= '<li>' . esc_html("{$product->name}: {$euros($product->cents)}, {$product->stock} left")
            . "<form method=\"post\" action=\"/shop/\">$nonce<input type=\"hidden\" name=\"product\" value=\"{$product->id}\">"
            . '<button name="little_shop" value="add">Add</button></form></li>';
    }
    $page .= '</ul><ul id="cart">';
    foreach (little_shop_cart($session) as $line) {
        $page .= '<li>' . esc_html("{$line->quantity} x {$line->name}") . '</li>';
    }
    $page .= "</ul><form method=\"post\" action=\"/shop/\">$nonce<input name=\"customer\" required>"
        . '<button name="little_shop" value="order">Order</button></form><ol id="orders">';
    $orders = $wpdb->get_results($wpdb->prepare(
        'SELECT * FROM ' . little_shop_table('orders') . ' WHERE session = %s ORDER BY id', $session,
    ));
    foreach ($orders as $order) {
        $page .= '<li>' . esc_html("{$order->customer}: {$order->items}, {$euros($order->cents)}") . '</li>';
    }
    return $page . '</ol>';
});

// All orders, for the owner of the shop.
add_action('rest_api_init', function () {
    register_rest_route('little-shop/v1', '/orders', [
        'permission_callback' => fn() => current_user_can('manage_options'),
        'callback' => function () {
            global $wpdb;
            return $wpdb->get_results('SELECT id, customer, cents, items FROM ' . little_shop_table('orders') . ' ORDER BY id');
        },
    ]);
});
