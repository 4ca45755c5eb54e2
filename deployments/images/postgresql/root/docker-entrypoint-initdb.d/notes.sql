CREATE TABLE notes (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    key uuid NOT NULL DEFAULT gen_random_uuid(),
    text text NOT NULL
);
INSERT INTO notes (text) VALUES ('The first note');
