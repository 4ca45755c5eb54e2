<?php
// A setting comes from the variable NAME, from the file that NAME_FILE names, or is this default.
function setting(string $name, string $default): string
{
    $file = getenv("{$name}_FILE");
    if ($file !== false && is_readable($file)) {
        return rtrim(file_get_contents($file), "\r\n");
    }
    $value = getenv($name);
    return $value === false ? $default : $value;
}

define('DB_NAME', setting('WORDPRESS_DB_NAME', 'wordpress'));
define('DB_USER', setting('WORDPRESS_DB_USER', 'wordpress'));
define('DB_PASSWORD', setting('WORDPRESS_DB_PASSWORD', ''));
define('DB_HOST', setting('WORDPRESS_DB_HOST', '127.0.0.1'));
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
$table_prefix = setting('WORDPRESS_TABLE_PREFIX', 'wp_');

// Instances must not share keys: each has a file of random text, or makes one at its first start.
(function () {
    $own = '/etc/try-it-now/seed';
    $first = '/var/www/html/wp-content/uploads/.seed';
    if (!is_readable($own) && !is_readable($first)) {
        file_put_contents($first, bin2hex(random_bytes(32)));
    }
    $seed = file_get_contents(is_readable($own) ? $own : $first);
    foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $use) {
        define("{$use}_KEY", setting("WORDPRESS_{$use}_KEY", hash_hmac('sha256', "$use key", $seed)));
        define("{$use}_SALT", setting("WORDPRESS_{$use}_SALT", hash_hmac('sha256', "$use salt", $seed)));
    }
})();

if (setting('WORDPRESS_CONFIG_EXTRA', '') !== '') {
    eval(setting('WORDPRESS_CONFIG_EXTRA', ''));
}
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('DISABLE_WP_CRON', true);
define('FS_METHOD', 'direct');

if (!defined('ABSPATH')) {
    define('ABSPATH', __DIR__ . '/');
}
require_once ABSPATH . 'wp-settings.php';
