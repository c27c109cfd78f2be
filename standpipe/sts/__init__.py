"""Keypad tokens by IEC 62055-41 (STS), edition 3: 20 digits that a customer types into a meter. Pure.

Built of what is public: EA11 (MISTY1, RFC 2994) and DKGA04 (HMAC-SHA-256). EA07's tables belong to the STS Association.
"""
