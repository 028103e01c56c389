-- Up Migration

-- Which store holds the private half; null for keys that were made before this was kept.
alter table tabib.signing_key add column store text;
