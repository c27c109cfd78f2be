"""LoRaWAN through a network server: meters that speak in uplinks."""
