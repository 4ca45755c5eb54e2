<?php
// Installs WordPress with the shop and its pages, unless it is installed. Runs at each start, before the server.
declare(strict_types=1);

define('WP_INSTALLING', true);
require '/var/www/html/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';

if (is_blog_installed()) {
    exit(0);
}
add_filter('pre_wp_mail', '__return_true'); // instances send no mail
wp_install('A shop of your own', 'admin', 'admin@example.com', false, '', 'demo');
update_option('permalink_structure', '/%postname%/');
delete_option('rewrite_rules'); // the first request creates them, when all rules are registered
$problem = activate_plugin('little-shop/little-shop.php');
if (is_wp_error($problem)) {
    fwrite(STDERR, $problem->get_error_message() . "\n");
    exit(1);
}
wp_insert_post([
    'post_title' => 'Shop', 'post_name' => 'shop', 'post_type' => 'page', 'post_status' => 'publish', 'post_author' => 1,
    'post_content' => '[little_shop]',
]);
