"""What crosses aggregates: signing out, changes of password and profile, deactivation."""
