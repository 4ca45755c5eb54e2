<?php
// A board of notes with a session for each browser.
session_save_path('/var/www/data');
session_start();
$_SESSION['pages'] = ($_SESSION['pages'] ?? 0) + 1;
$database = new PDO('sqlite:/var/www/data/board.sqlite', options: [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION]);
$database->exec('PRAGMA busy_timeout = 5000');
$database->exec('CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)');
if ($_SERVER['REQUEST_METHOD'] === 'POST') {
    $database->prepare('INSERT INTO notes (text) VALUES (?)')->execute([$_POST['text'] ?? '']);
    header('Location: /', response_code: 303);
    exit;
}
$user = trim((string) shell_exec('id -un'));
?>
<!doctype html>
<title>Board</title>
<p>User: <?= htmlspecialchars($user) ?>. Pages of this session: <?= $_SESSION['pages'] ?>.</p>
<form method="post"><input name="text"><button>Add</button></form>
<ul>
<?php foreach ($database->query('SELECT text FROM notes ORDER BY id DESC') as $note): ?>
<li><?= htmlspecialchars($note['text']) ?></li>
<?php endforeach ?>
</ul>
