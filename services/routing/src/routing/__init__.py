"""Hand-over to Service providers: deliveries, attempts, receipts."""
