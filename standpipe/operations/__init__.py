"""Use cases of the utility's office: named, allowed by role, audited; called alike by command line and console."""
