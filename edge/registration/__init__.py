"""Registration: where the anatomy of an image lies against its plan, in the isocentre plane and in the room."""
