<?php
// The back office: log in, add a product, install a module.
declare(strict_types=1);

require dirname(__DIR__) . '/shop.php';
redirect_to_own_domain();
session_save_path('/tmp');
session_start(['cookie_httponly' => true, 'cookie_samesite' => 'Lax', 'cookie_path' => '/admin-dev/']);

function back(): never
{
    header('Location: /admin-dev/', true, 303);
    exit;
}

if ($_SERVER['REQUEST_METHOD'] === 'POST' && isset($_POST['email'])) {
    $employee = rows('SELECT passwd FROM ps_employee WHERE email = ?', [(string) $_POST['email']])[0] ?? null;
    if ($employee === null || !password_verify((string) ($_POST['passwd'] ?? ''), $employee['passwd'])) {
        http_response_code(401);
        exit('The e-mail address or the password is wrong.');
    }
    session_regenerate_id(true);
    $_SESSION['token'] = bin2hex(random_bytes(16));
    back();
}
$token = $_SESSION['token'] ?? null;
if ($token === null) {
    ?><!doctype html><title>Back office</title>
<form method="post" action="/admin-dev/">
  <input name="email" type="email"> <input name="passwd" type="password"> <button>Log in</button>
</form><?php
    exit;
}
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    if (!hash_equals($token, (string) ($_POST['token'] ?? ''))) {
        http_response_code(403);
        exit('This form is not of this session.');
    }
    if (isset($_POST['name'])) {
        rows('INSERT INTO ps_product (name, price) VALUES (?, ?)', [$_POST['name'], (float) ($_POST['price'] ?? 0)]);
    }
    if (is_uploaded_file($_FILES['module']['tmp_name'] ?? '')) {
        try {
            install_module($_FILES['module']['tmp_name']);
        } catch (RuntimeException $problem) {
            http_response_code(400);
            exit(escape($problem->getMessage()));
        }
    }
    back();
}
?><!doctype html><title>Back office</title>
<form method="post" action="/admin-dev/">
  <input type="hidden" name="token" value="<?= $token ?>"> <input name="name"> <input name="price"> <button>Add</button>
</form>
<form method="post" action="/admin-dev/" enctype="multipart/form-data">
  <input type="hidden" name="token" value="<?= $token ?>"> <input type="file" name="module"> <button>Install</button>
</form>
