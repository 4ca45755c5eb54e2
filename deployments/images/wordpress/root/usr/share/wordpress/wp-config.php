<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'root'); // authenticated by its uid on the socket, without a password
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:/run/mysqld/mysqld.sock');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
$table_prefix = 'wp_';

// The proxy reports with this field that it has ended TLS.
if (($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '') === 'https') {
    $_SERVER['HTTPS'] = 'on';
}
// An instance takes its address from each request, so every link names the instance that shows it.
(function () {
    $host = $_SERVER['HTTP_HOST'] ?? 'localhost';
    if (!preg_match('/^[a-z0-9._-]+(:[0-9]+)?$/iD', $host)) {
        $host = 'localhost';
    }
    $home = (($_SERVER['HTTPS'] ?? '') === 'on' ? 'https://' : 'http://') . $host;
    define('WP_HOME', $home);
    define('WP_SITEURL', $home);

    // Instances must not share keys. They are derived from a file of random text that each instance has before it
    // starts. It is no PHP script, because the compiled form of a script would come from the checkpoint.
    $own = '/etc/try-it-now/seed';
    $first = '/var/lib/seed';
    if (!is_readable($own) && !is_readable($first)) {
        file_put_contents($first, bin2hex(random_bytes(32)));
    }
    $seed = file_get_contents(is_readable($own) ? $own : $first);
    foreach (['AUTH', 'SECURE_AUTH', 'LOGGED_IN', 'NONCE'] as $use) {
        define("{$use}_KEY", hash_hmac('sha256', "$use key", $seed));
        define("{$use}_SALT", hash_hmac('sha256', "$use salt", $seed));
    }
})();

// The container has no egress, so WordPress must not wait for other hosts.
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('AUTOMATIC_UPDATER_DISABLED', true);
define('WP_AUTO_UPDATE_CORE', false);
define('DISABLE_WP_CRON', true);
define('FS_METHOD', 'direct');
define('WP_DEBUG', false);

if (!defined('ABSPATH')) {
    define('ABSPATH', __DIR__ . '/');
}
require_once ABSPATH . 'wp-settings.php';
