"""A small shop as many begin: one file, SQLite beside it."""

import os
import sqlite3
from datetime import datetime, timezone
from pathlib import Path

from flask import Flask, g, jsonify, request

app = Flask(__name__)
app.secret_key = os.environ["SECRET_KEY"]
DATABASE = os.environ.get("DATABASE_PATH", str(Path(__file__).parent / "store.db"))


def db():
    if "db" not in g:
        g.db = sqlite3.connect(DATABASE, timeout=10)
        g.db.execute("PRAGMA foreign_keys = ON")
    return g.db


@app.teardown_appcontext
def close(_error):
    if "db" in g:
        g.pop("db").close()


@app.get("/healthz")
def healthz():
    db().execute("SELECT count(*) FROM orders")
    return "ok", 200, {"x-release": os.environ.get("PLIMSOLL_RELEASE", "")}


@app.get("/")
def home():
    names = [row[0] for row in db().execute("SELECT name FROM products ORDER BY id")]
    return "Grocery: " + ", ".join(names)


@app.get("/checkout")
def checkout():
    return "Checkout"


@app.post("/orders")
def order():
    form = request.form
    with db():
        cursor = db().execute(
            "INSERT INTO orders (reference, created_at) VALUES (?, ?)",
            (form["reference"], datetime.now(timezone.utc).isoformat()),
        )
        db().execute(
            "INSERT INTO order_items (order_id, product_id, quantity) VALUES (?, ?, ?)",
            (cursor.lastrowid, int(form["item"]), int(form["qty"])),
        )
    return jsonify(id=cursor.lastrowid), 201
