"""Errors of this service.

What is retryable is listed in `common.kafka.consumer.RETRYABLE`; what is rejected is a `Problem` (HTTP) or an
`EventError` (dead letters); the rest is a bug.
"""
