<?php
// install-module.php FILE: installs a module from a ZIP file. It holds the folder NAME with NAME/config.json.
declare(strict_types=1);

require '/var/www/html/shop.php';
try {
    echo 'installed ', install_module($argv[1]), "\n";
} catch (RuntimeException $problem) {
    fwrite(STDERR, $problem->getMessage() . "\n");
    exit(1);
}
