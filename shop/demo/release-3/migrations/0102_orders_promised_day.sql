-- The day on which a customer was promised the order.
ALTER TABLE orders ADD COLUMN promised_day TEXT;
