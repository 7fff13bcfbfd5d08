"""Wake-ups: they save time and carry nothing; the database is the truth."""
