-- Run once by the PostgreSQL image, beside the database that its environment names.
CREATE DATABASE yizhan_bots TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C';
