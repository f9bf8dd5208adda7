DROP INDEX letter_of_message;
