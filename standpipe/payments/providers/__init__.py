"""The payment rails, each behind ``standpipe.payments.provider``."""
