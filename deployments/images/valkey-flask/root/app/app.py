"""A list of products that is kept in a cache, and words that visitors add and wait for."""

import flask
import redis

app = flask.Flask(__name__)
cache = redis.Redis(host="127.0.0.1", port=6379, decode_responses=True)
PRODUCTS = 5000


@app.get("/health")
def health():
    return "PONG" if cache.ping() else ("no answer", 503)


@app.get("/")
def products():
    if not cache.exists("products"):
        with cache.pipeline() as pipeline:
            for number in range(PRODUCTS):
                pipeline.hset("products", f"product-{number}", "x" * 200)
            pipeline.execute()
    return f"<title>Cache</title><p>{cache.hlen('products')} products in the cache, {cache.incr('pages')} pages.</p>"


@app.post("/words")
def add():
    word = flask.request.form["word"]
    cache.rpush("words", word)
    cache.lpush("news", word)
    return "added", 201


@app.get("/words")
def words():
    return "\n".join(cache.lrange("words", 0, -1))


@app.get("/next")
def next_word():
    """Waits for the next word."""
    found = cache.blpop("news", timeout=10)
    return found[1] if found else ("none", 504)
