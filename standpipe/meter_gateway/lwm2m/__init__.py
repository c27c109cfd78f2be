"""LwM2M over CoAP, under DTLS or on plain UDP: meters that wake, and whom we then ask."""
