"""The radio's door: LwM2M over CoAP. It translates and calls; it holds no SQL and no business rule."""
