"""The fleet: plan → launch → watch → reap, with enrolment and user data. One verb a file, each step repeatable."""
