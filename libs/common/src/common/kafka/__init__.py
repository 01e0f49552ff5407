"""Kafka as the services use it: the topic registry, the producer, the batch consumer."""
