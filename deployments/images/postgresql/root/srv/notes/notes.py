"""Notes in PostgreSQL. Each worker has a pool of connections, which it opens when it starts."""

import os

from flask import Flask, jsonify, redirect, render_template_string, request
from psycopg_pool import ConnectionPool

PAGE = """<!doctype html>
<title>Notes of your own</title>
<h1>Notes of your own</h1>
<form method="post" action="/notes"><input name="text" required> <button>Keep it</button></form>
<ul>{% for text in notes %}
  <li>{{ text }}</li>{% endfor %}
</ul>
"""

app = Flask(__name__)
pool = ConnectionPool(
    "host=127.0.0.1 dbname={0} user={0} password={1} application_name=notes".format(
        os.environ["POSTGRES_USER"], os.environ["POSTGRES_PASSWORD"]
    ),
    min_size=2,
    max_size=4,
    timeout=5,
    open=False,
)


@app.before_request
def open_pool():
    # A pool has threads of its own, so each worker opens its own after the fork.
    if pool.closed:
        pool.open(wait=True)


@app.get("/")
def page():
    with pool.connection() as connection:
        rows = connection.execute("SELECT text FROM notes ORDER BY id DESC LIMIT 100").fetchall()
    return render_template_string(PAGE, notes=[row[0] for row in rows])


@app.post("/notes")
def add():
    with pool.connection() as connection:
        connection.execute("INSERT INTO notes (text) VALUES (%s)", (request.form["text"],))
    return redirect("/", code=303)


@app.get("/up")
def up():
    with pool.connection() as connection:
        connection.execute("SELECT count(*) FROM notes").fetchone()
    return "up\n"


@app.get("/pool")
def statistics():
    """The state of this worker's pool: how many connections it ever opened, and how many it lost."""
    with pool.connection() as connection:
        backends = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'notes'"
        ).fetchone()[0]
        random = connection.execute("SELECT gen_random_uuid()::text").fetchone()[0]
    all = pool.get_stats()
    return jsonify(
        opened=all.get("connections_num", 0),
        lost=all.get("connections_lost", 0),
        failed=all.get("connections_errors", 0),
        backends=backends,
        random=random,
    )
