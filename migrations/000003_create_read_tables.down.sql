DROP TABLE stock_levels;
DROP TABLE orders;
DROP TABLE holds;
