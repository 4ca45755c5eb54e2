import { greeting } from './greeting';

const show = (text: string) => (document.querySelector('#greeting')!.textContent = text);
const source = document.querySelector<HTMLTextAreaElement>('#source')!;
show(greeting);
source.value = await (await fetch('/editor/greeting.ts')).text();
document.querySelector('#save')!.addEventListener('click', () => fetch('/editor/greeting.ts', { method: 'PUT', body: source.value }));
if (import.meta.hot) import.meta.hot.accept('./greeting', (module) => module && show(module.greeting));
