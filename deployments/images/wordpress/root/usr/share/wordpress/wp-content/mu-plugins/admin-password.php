<?php
// Each copy has a password of its own for “admin”: it is in a file that was written before the copy was made. The
// database was frozen with one that nobody knows, and while it is still that one, the one in the file is right.
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
