#!/usr/bin/env python3
"""A small shop: takes orders as JSON, keeps its catalogue and its sales in SQLite, answers in JSON.

    python3 shop.py [--orders 40000]

A product's page is rendered once and cached. The cache has a limit, is soon full, and then stays as large as it is.
Elsewhere there is a small mistake: with every order the shop holds a little more memory than before.
`heapkeeper run shop.py`, then `heapkeeper report`, says where.
"""

import argparse
import json
import random
import sqlite3
from collections import OrderedDict, defaultdict

PRODUCTS = 20_000
CUSTOMERS = 2_000
CACHED_PAGES = 16_000

ADJECTIVES = "brave bright calm clever gentle happy kind lively neat proud quick quiet shiny silly tidy".split()
COLOURS = "amber blue coral green indigo ivory lilac maroon mint olive pink red sand teal violet".split()
NOUNS = "apron basket bottle candle cup drum jar kettle lamp mirror pillow plate scarf spoon teapot".split()

MENU = "\n".join(
    f'<li><a href="/{noun}/{colour}">{colour} {noun}s</a></li>' for noun in NOUNS for colour in COLOURS[:5])

PAGE = """<!doctype html>
<html lang="en">
<head><title>{name}</title></head>
<body>
<nav><ul>{menu}</ul></nav>
<main>
<h1>{name}</h1>
<p class="price">{euros}.{cents:02}</p>
<p class="weight">{grams} g</p>
<form method="post" action="/order"><button name="sku" value="{sku}">Buy</button></form>
</main>
</body>
</html>
"""

TERMS = """\
You may send anything back within thirty days, for whatever reason; the label on the parcel is your return label.
What breaks within two years we mend or replace, as you like it better; a cup or a plate of which you have several we
replace by one of the same colour, if it is still made. If something is missing, or is not what you thought it would
be, answer this message: a person will read it, and very probably help you. Thank you!
"""

SCHEMA = """
CREATE TABLE product (sku INTEGER PRIMARY KEY, name TEXT, cents INTEGER, grams INTEGER, in_stock INTEGER);
CREATE TABLE sale (number INTEGER PRIMARY KEY, customer INTEGER, cents INTEGER);
"""

db = sqlite3.connect(":memory:")
pages = OrderedDict()  # sku: page, the one that was asked for last at the end
orders = defaultdict(list)  # customer: what was answered


def handle(request):
    """Takes one order, a JSON text. The answer is one too."""
    order = json.loads(request)
    for sku in order["looked_at"]:
        find_page(sku)
    bought = [buy(line["sku"], line["count"]) for line in order["lines"]]
    cents = sum(line["cents"] for line in bought)
    sale = db.execute("INSERT INTO sale (customer, cents) VALUES (?, ?)", (order["customer"], cents))
    answer = json.dumps({
        "order": sale.lastrowid, "customer": order["customer"], "ship_to": order["address"],
        "lines": bought, "cents": cents, "terms": TERMS})
    remember_order(order["customer"], answer)
    return answer


def remember_order(customer, answer):
    """For the customer's own page, which shows the last ten. Nobody drops the ones before."""
    orders[customer].append(answer.encode())  # the leak


def buy(sku, count):
    """One line of an order: the product was looked at, and some of it goes."""
    page = find_page(sku)
    name, cents = db.execute("SELECT name, cents FROM product WHERE sku = ?", (sku,)).fetchone()
    db.execute("UPDATE product SET in_stock = in_stock - ? WHERE sku = ?", (count, sku))
    return {"sku": sku, "name": name, "count": count, "cents": cents * count, "page_bytes": len(page)}


def find_page(sku):
    """A product's page, from the cache if it was among the last that were asked for."""
    if sku in pages:
        pages.move_to_end(sku)
        return pages[sku]
    page = pages[sku] = render_page(sku)
    if len(pages) > CACHED_PAGES:
        pages.popitem(last=False)
    return page


def render_page(sku):
    name, cents, grams = db.execute("SELECT name, cents, grams FROM product WHERE sku = ?", (sku,)).fetchone()
    page = PAGE.format(menu=MENU, name=name, euros=cents // 100, cents=cents % 100, grams=grams, sku=sku)
    return page.encode()


def make_products(rnd):
    for sku in range(PRODUCTS):
        name = f"{rnd.choice(ADJECTIVES)} {rnd.choice(COLOURS)} {rnd.choice(NOUNS)}"
        yield sku, name, rnd.randrange(199, 9999), rnd.randrange(50, 5000), 1000


def make_requests(rnd, count):
    """What the customers' browsers send."""
    for _ in range(count):
        customer = rnd.randrange(CUSTOMERS)
        street = NOUNS[customer % len(NOUNS)].title()
        yield json.dumps({
            "customer": customer,
            "address": f"{customer % 97 + 1} {street} Street, {10_000 + customer} Teatown",
            "looked_at": [rnd.randrange(PRODUCTS) for _ in range(3)],
            "lines": [{"sku": rnd.randrange(PRODUCTS), "count": rnd.randrange(1, 4)}
                      for _ in range(rnd.randrange(1, 4))]})


def main():
    parser = argparse.ArgumentParser(description="A small shop that forgets to forget.")
    parser.add_argument("--orders", type=int, default=40_000, metavar="N", help="how many to take (default: 40000)")
    options = parser.parse_args()

    rnd = random.Random(2024)
    db.executescript(SCHEMA)
    db.executemany("INSERT INTO product VALUES (?, ?, ?, ?, ?)", make_products(rnd))
    for request in make_requests(rnd, options.orders):
        handle(request)
    count, cents = db.execute("SELECT count(*), sum(cents) FROM sale").fetchone()
    print(f"{count} orders, {cents / 100:.2f} in revenue, {len(pages)} pages in the cache")


if __name__ == "__main__":
    main()
