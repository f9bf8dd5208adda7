DROP TABLE memory_promises;
