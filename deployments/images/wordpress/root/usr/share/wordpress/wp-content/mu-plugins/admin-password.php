<?php
// Each instance has its own password for “admin”, in a file that was written before the instance started. The database
// was frozen with an unknown password. As long as that one is set, the password in the file is valid.
const OWN_PASSWORD = '/etc/try-it-now/admin-password';

add_filter('check_password', function ($check, $password, $hash, $user) {
    if ((int) $user !== 1 || $hash !== get_option('first_password') || !is_readable(OWN_PASSWORD)) {
        return $check;
    }
    return hash_equals(trim(file_get_contents(OWN_PASSWORD)), $password);
}, 10, 4);

add_filter('login_message', function ($message) {
    if (!is_readable(OWN_PASSWORD)) {
        return $message;
    }
    return $message . '<p class="message">You are “admin”. Your password is where you got this copy: on the page with ' .
        'the button, beside it.</p>';
});
