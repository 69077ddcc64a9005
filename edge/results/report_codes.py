"""The codes of the structured report: the standard's where it has one, else our own in a private scheme."""

from __future__ import annotations

from pydicom.sr.coding import Code

SCHEME = "99LANDMARKNET"  # PS3.16 8: designators of private schemes begin with 99

MM = Code("mm", "UCUM", "mm")
DEG = Code("deg", "UCUM", "deg")
ONE = Code("1", "UCUM", "no units")
PIXELS = Code("{pixels}", "UCUM", "pixels")
FIDUCIALS = Code("{landmarks}", "UCUM", "landmarks")
DEVICE = Code("121007", "DCM", "Device")
COMMENT = Code("121106", "DCM", "Comment")
IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")
ANATOMICAL_STRUCTURE = Code("91723000", "SCT", "Anatomical Structure")

FINDINGS = {  # SNOMED CT as PS3.16 has it, in CID 6115, 6102 and 4031
    "spinous_process": Code("55678000", "SCT", "Spinous process of vertebra"),
    "tracheal_bifurcation": Code("28700002", "SCT", "Carina"),
    "louis_angle": Code("44612009", "SCT", "Sternal angle"),
    "spine_line": Code("421060004", "SCT", "Spine"),
}


def finding(kind: str) -> Code:
    """Return the code of a landmark's kind; ours where the kind is not of this table, for kinds are the contract's."""
    return FINDINGS.get(kind) or own_code(kind, kind.replace("_", " ")[:64])


def own_code(value: str, meaning: str) -> Code:
    """Return a code of our private scheme."""
    return Code(value, SCHEME, meaning)


SCORE = own_code("score", "Score: height of the heatmap, 0 to 1, not a probability")
SIGMA = own_code("sigma", "Standard uncertainty along each axis")
X_ISOPLANE = own_code("x_isoplane", "x in the isocentre plane, right in the image positive")
Y_ISOPLANE = own_code("y_isoplane", "y in the isocentre plane, up in the image positive")
LANDMARK_COUNT = own_code("landmark_count", "Number of landmarks found")
SHIFT = (
    own_code("shift_x", "Shift x, detected minus planned, right in the image positive"),
    own_code("shift_y", "Shift y, detected minus planned, up in the image positive"),
)
INTERVAL = (
    own_code("interval95_x", "Half the width of the 95 % interval of the shift, x"),
    own_code("interval95_y", "Half the width of the 95 % interval of the shift, y"),
)
ROTATION = own_code("rotation", "Rotation from the reference, counterclockwise positive")
RESIDUAL = own_code("residual", "Residual of the registration")
USED_COUNT = own_code("used_count", "Number of landmarks used for the registration")
RUNNER_UP = (
    own_code("runner_up_x", "Shift of the next best alignment along x"),
    own_code("runner_up_y", "Shift of the next best alignment along y"),
)
MARGIN = own_code("margin", "Margin of the alignment over the next best, nats")
