"""What people coming from other systems import or configure."""
