// Draws from every generator of PHP, at each line that a visitor sends.
function draw() {
    $engine = new Random\Randomizer();
    return implode("\n", [
        "secret random_bytes " . bin2hex(random_bytes(16)),
        "secret random_int " . random_int(0, PHP_INT_MAX),
        "secret openssl_random_pseudo_bytes " . bin2hex(openssl_random_pseudo_bytes(16)),
        "secret Random\\Randomizer " . bin2hex($engine->getBytes(16)),
        "open mt_rand " . mt_rand() . mt_rand(),
        "open lcg_value " . lcg_value(),
    ]);
}
$listener = stream_socket_server("tcp://127.0.0.1:" . getenv("PORT"));
while (true) {
    $visitor = @stream_socket_accept($listener, 3600);
    if (!$visitor) continue; // woken by a restore
    if (fgets($visitor)) fwrite($visitor, draw());
    fclose($visitor);
}
