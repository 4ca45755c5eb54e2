<?php
// A page that counts its visits and stores notes, in a SQLite file.
declare(strict_types=1);

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
if ($path === '/style.css') {
    return false; // the server sends the file
}
if ($path !== '/' && $path !== '/up') {
    http_response_code(404);
    header('Content-Type: text/plain; charset=utf-8');
    echo "Not found\n";
    return;
}

function database(): PDO
{
    $database = new PDO('sqlite:/var/lib/visits.sqlite', options: [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
    $database->exec('PRAGMA synchronous = OFF'); // a visitor's data exists as long as the instance
    $database->exec('CREATE TABLE IF NOT EXISTS visits (number INTEGER NOT NULL)');
    $database->exec('CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)');
    return $database;
}

$database = database();
if ($path === '/up') {
    $database->query('SELECT count(*) FROM notes')->fetchColumn();
    header('Content-Type: text/plain; charset=utf-8');
    echo "up\n";
    return;
}
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $text = trim((string) ($_POST['note'] ?? ''));
    if ($text !== '' && strlen($text) <= 2000) {
        $database->prepare('INSERT INTO notes (text) VALUES (?)')->execute([$text]);
    }
    header('Location: /', true, 303);
    return;
}
$database->beginTransaction();
$visits = 1 + (int) $database->query('SELECT coalesce(max(number), 0) FROM visits')->fetchColumn();
$database->exec('DELETE FROM visits');
$database->exec("INSERT INTO visits (number) VALUES ($visits)");
$database->commit();
$notes = $database->query('SELECT text FROM notes ORDER BY id DESC LIMIT 100')->fetchAll(PDO::FETCH_COLUMN);
?>
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>A PHP app of your own</title>
  <link rel="stylesheet" href="/style.css">
</head>
<body>
  <h1>A PHP app of your own</h1>
  <p>This page has been seen <span class="count" id="visits"><?= $visits ?></span> times, and only by you.</p>
  <form method="post" action="/">
    <label>A note: <input name="note" maxlength="500" required></label>
    <button>Keep it</button>
  </form>
  <ul>
<?php foreach ($notes as $note): ?>
    <li><?= htmlspecialchars($note) ?></li>
<?php endforeach ?>
  </ul>
</body>
</html>
