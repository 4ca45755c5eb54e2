export const greeting: string = 'Hello from a source file';
