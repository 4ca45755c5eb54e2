import { readFile, writeFile } from 'node:fs/promises';
import { defineConfig } from 'vite';

const source = new URL('src/greeting.ts', import.meta.url);

/** Gives the page its own source, and saves what the visitor makes of it. */
const editor = {
  name: 'editor',
  configureServer(server) {
    server.middlewares.use('/editor/greeting.ts', async (request, response) => {
      try {
        if (request.method === 'PUT') {
          let text = '';
          for await (const part of request) text += part;
          await writeFile(source, text);
          response.statusCode = 204;
          response.end();
        } else {
          response.setHeader('content-type', 'text/plain');
          response.end(await readFile(source, 'utf8'));
        }
      } catch (error) {
        response.statusCode = 500;
        response.end(String(error));
      }
    });
  },
};

export default defineConfig({
  plugins: [editor],
  server: { port: 5173, strictPort: true, allowedHosts: true },
});
