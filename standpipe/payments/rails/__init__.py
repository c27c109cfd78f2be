"""The payment rails, each behind ``standpipe.payments.rails.port``."""
