<?php
declare(strict_types=1);

require __DIR__ . '/shop.php';
redirect_to_own_domain();
$name = rows("SELECT value FROM ps_configuration WHERE name = 'PS_SHOP_NAME'")[0]['value'];
$base = (getenv('PS_PROTOCOL') ?: 'http') . '://' . domain();
?>
<!doctype html>
<title><?= escape($name) ?></title>
<link rel="canonical" href="<?= escape($base) ?>/">
<h1><?= escape($name) ?></h1>
<ul id="products">
<?php foreach (rows('SELECT name, price FROM ps_product ORDER BY id_product') as $product): ?>
  <li><?= escape("{$product['name']}: {$product['price']}") ?></li>
<?php endforeach ?>
</ul>
<ul id="modules">
<?php foreach (rows('SELECT name FROM ps_module ORDER BY name') as $module): ?>
  <li><?= escape(json_decode(file_get_contents(__DIR__ . "/modules/{$module['name']}/config.json"), true)['banner']) ?></li>
<?php endforeach ?>
</ul>
