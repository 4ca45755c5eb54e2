// A catalogue that is created at the start and stays in memory, and a cart of the visitor. HEAP_MIB is the size of the
// catalogue.
'use strict';

const http = require('node:http');

const size = Number(process.env.HEAP_MIB ?? 0) * 2 ** 20;
const products = [];
const cart = new Map();

// A product takes about 200 bytes of V8's heap: an object, its texts and its numbers.
do {
  for (let i = 0; i < 1_000; i++) {
    const number = products.length;
    products.push({ number, name: `Product ${number}`, price: number * 0.01, tags: [number % 7, number % 11, number % 13] });
  }
} while (process.memoryUsage().heapUsed < size);

const page = () => `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A shop of your own</title>
<link rel="icon" href="data:,">
<h1>A shop of your own</h1>
<p>${products.length} products, ${[...cart.values()].reduce((sum, count) => sum + count, 0)} in your cart.</p>
<form method="post" action="/cart"><label>Product <input name="number" inputmode="numeric" required></label> <button>Put it into the cart</button></form>
<ul>${[...cart].map(([name, count]) => `<li>${count} × ${name}</li>`).join('')}</ul>
`;

// Puts a product into the cart if it exists. Returns whether it does.
function put(form) {
  const product = products[new URLSearchParams(form).get('number')];
  if (product) cart.set(product.name, (cart.get(product.name) ?? 0) + 1);
  return Boolean(product);
}

const server = http.createServer((request, response) => {
  const answer = (status, headers, body) => response.writeHead(status, headers).end(body);
  if (request.method === 'GET' && request.url === '/') {
    answer(200, { 'content-type': 'text/html; charset=utf-8' }, page());
  } else if (request.method === 'GET' && request.url === '/up') {
    answer(200, { 'content-type': 'text/plain' }, 'up');
  } else if (request.method === 'POST' && request.url === '/cart') {
    let form = '';
    request.setEncoding('utf8');
    request.on('data', (part) => {
      form += part;
      if (form.length > 1000) request.destroy();
    });
    request.on('end', () => (put(form) ? answer(303, { location: '/' }) : answer(400, { 'content-type': 'text/plain' }, 'There is no such product.')));
  } else {
    answer(404, { 'content-type': 'text/plain' }, 'There is nothing here.');
  }
});

// Ends at once when the runtime stops the app.
process.on('SIGTERM', () => process.exit(0));
server.listen(Number(process.env.PORT ?? 80));
