<?php
define('DB_NAME', 'wordpress');
define('DB_USER', 'root'); // by its uid, over the socket: there is no password to know
define('DB_PASSWORD', '');
define('DB_HOST', 'localhost:/run/mysqld/mysqld.sock');
define('DB_CHARSET', 'utf8mb4');
define('DB_COLLATE', '');
$table_prefix = 'wp_';

// Whoever ends TLS in front of the instance says so.
if (($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '') === 'https') {
    $_SERVER['HTTPS'] = 'on';
}
// A clone learns its address with each request, so every link names the clone that shows it.
(function () {
    $host = $_SERVER['HTTP_HOST'] ?? 'localhost';
    if (!preg_match('/^[a-z0-9._-]+(:[0-9]+)?$/iD', $host)) {
        $host = 'localhost';
    }
    $home = (($_SERVER['HTTPS'] ?? '') === 'on' ? 'https://' : 'http://') . $host;
    define('WP_HOME', $home);
    define('WP_SITEURL', $home);

    // Clones must not share keys: a file of random text, written for each before it serves, is what theirs come from. No
    // script, since the compiled form of one would come out of the checkpoint.
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

// There is no way out of the container, so nothing waits for one.
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
