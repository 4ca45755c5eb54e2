<?php
// The ready check: PHP, the settings of WordPress and the database work. It costs a fraction of a page.
if ($_SERVER['REQUEST_URI'] === '/.ready') {
    define('SHORTINIT', true);
    require '/usr/share/wordpress/wp-load.php';
    echo $wpdb->get_var("SELECT post_title FROM $wpdb->posts WHERE ID = 1");
    return;
}

// Serves the file that the path names, else WordPress, like the usual rewrite rules of a web server.
$path = rawurldecode(parse_url('http://localhost' . $_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/');
$file = realpath($_SERVER['DOCUMENT_ROOT'] . $path);

if ($file !== false && is_dir($file) && is_file($file . '/index.php')) {
    if (!str_ends_with($path, '/')) {
        $query = $_SERVER['QUERY_STRING'] ?? '';
        header('Location: ' . $path . '/' . ($query === '' ? '' : '?' . $query), true, 301);
        return;
    }
    $file .= '/index.php';
    $path .= 'index.php';
}
if ($file === false || !is_file($file) || str_contains($path, '/.')) {
    $file = $_SERVER['DOCUMENT_ROOT'] . '/index.php';
    $path = '/index.php';
} elseif (!str_ends_with($file, '.php')) {
    return false; // PHP's server sends the file
}
$_SERVER['SCRIPT_FILENAME'] = $file;
$_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = $path;
chdir(dirname($file));
require $file;
