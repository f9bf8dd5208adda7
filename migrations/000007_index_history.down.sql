DROP INDEX events_of_sku;
DROP INDEX events_of_hold;
