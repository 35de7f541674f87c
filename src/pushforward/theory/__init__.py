"""What the field's textbooks prove, as functions whose closed forms the tests hold: no model, no training, only laws and games."""
