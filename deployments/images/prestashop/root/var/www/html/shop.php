<?php
// What the pages of the visitor and of the back office have in common.
declare(strict_types=1);

function database(): mysqli
{
    static $database = null;
    mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);
    return $database ??= new mysqli(
        getenv('MYSQL_HOST'), getenv('MYSQL_USER'), getenv('MYSQL_PASSWORD'), getenv('MYSQL_DATABASE'),
        (int) getenv('MYSQL_PORT'),
    );
}

function rows(string $query, array $values = []): array
{
    $result = database()->execute_query($query, $values);
    return $result === true ? [] : $result->fetch_all(MYSQLI_ASSOC);
}

function domain(): string
{
    return rows('SELECT domain FROM ps_shop_url WHERE id_shop = 1')[0]['domain'];
}

// A request for another host than that of the shop is sent there, and one without TLS where the shop demands it.
function redirect_to_own_domain(): void
{
    $domain = domain();
    $protocol = getenv('PS_PROTOCOL') ?: 'http';
    $came_by = ($_SERVER['HTTP_X_FORWARDED_PROTO'] ?? '') ?: 'http';
    if (($_SERVER['HTTP_HOST'] ?? '') !== $domain || ($protocol === 'https' && $came_by !== 'https')) {
        header("Location: $protocol://$domain{$_SERVER['REQUEST_URI']}", true, 302);
        exit;
    }
}

// Unpacks a module and notes it in the database. Returns its name.
function install_module(string $file): string
{
    $zip = new ZipArchive();
    if ($zip->open($file) !== true) {
        throw new RuntimeException('this is no ZIP file');
    }
    $name = explode('/', (string) $zip->getNameIndex(0))[0];
    $config = json_decode((string) $zip->getFromName("$name/config.json"), true);
    $is_complete = is_string($config['version'] ?? null) && is_string($config['banner'] ?? null);
    if (!$is_complete || !preg_match('/^[a-z0-9_]{1,64}$/D', $name)) {
        throw new RuntimeException('this is no module');
    }
    for ($number = 0; $number < $zip->numFiles; $number++) {
        $path = (string) $zip->getNameIndex($number);
        if (!str_starts_with($path, "$name/") || str_contains($path, '..')) {
            throw new RuntimeException("the module holds a file that is not its own: $path");
        }
    }
    $zip->extractTo('/var/www/html/modules');
    rows('REPLACE INTO ps_module (name, version) VALUES (?, ?)', [$name, $config['version']]);
    return $name;
}

function escape(string $text): string
{
    return htmlspecialchars($text, ENT_QUOTES);
}
