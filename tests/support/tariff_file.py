"""A good tariff file, to be spoilt by tests."""

GOOD = """\
tariff: domestic
name: Domestic
currency: KES
effective-from: 2027-01-01
blocks:
  - {up-to-kl: 6, price: 50.00}
  - {up-to-kl: 20, price: 95.00}
  - {price: 130.00}
allowance: {kl: 2, for: [lifeline]}
standing-charges:
  - {code: rent, name: Meter rent, amount: 150, per: month}
levies:
  - code: vat
    name: VAT
    percent: 16
    of: [rent]
"""

BLOCKS = GOOD[GOOD.index("blocks:") : GOOD.index("allowance:")]
