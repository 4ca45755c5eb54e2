<?php
// Installs WordPress with a first post, unless it is installed. Runs at each start, before the server.
declare(strict_types=1);

define('WP_INSTALLING', true);
require '/usr/share/wordpress/wp-load.php';
require ABSPATH . 'wp-admin/includes/upgrade.php';

if (is_blog_installed()) {
    exit(0);
}

// Instances send no mail.
add_filter('pre_wp_mail', '__return_true');

// If a hook gives each instance its own password, this one is random and unknown: see mu-plugins/admin-password.php.
$password = is_readable('/etc/try-it-now/admin-password') ? bin2hex(random_bytes(32)) : 'demo';
wp_install('WordPress of your own', 'admin', 'admin@example.com', false, '', $password);
update_option('first_password', get_userdata(1)->user_pass, false);

// These pages contain the address of this first start.
foreach (['sample-page', 'privacy-policy'] as $name) {
    $page = get_page_by_path($name);
    if ($page !== null) {
        wp_delete_post($page->ID, true);
    }
}
update_option('blogdescription', 'Write, change, break: no other visitor sees it');
update_option('wp_page_for_privacy_policy', 0);
update_option('admin_email_lifespan', PHP_INT_MAX); // no question about the address at the first login
update_user_meta(1, 'default_password_nag', false);

update_option('permalink_structure', '/%postname%/');
delete_option('rewrite_rules'); // the first request creates them, when all rules are registered
