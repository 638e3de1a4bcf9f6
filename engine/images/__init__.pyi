from .align import Face as Face
from .align import Frame as Frame
from .align import faces_in as faces_in
from .decode import DecodedImage as DecodedImage
from .decode import read_image as read_image
from .detect import FaceDetector as FaceDetector
from .encode import encode_image as encode_image
from .ffhq import Square as Square
from .ffhq import ffhq_frame as ffhq_frame
from .mesh import FaceMesh as FaceMesh
from .mesh import Mesh as Mesh
from .paste import Pasted as Pasted
from .paste import Piece as Piece
from .paste import of_size as of_size
from .paste import outline as outline
from .pixels import Floats as Floats
from .pixels import Pixels as Pixels
from .pixels import from_uint8 as from_uint8
from .pixels import to_uint8 as to_uint8
from .sheet import SheetRow as SheetRow
from .sheet import draw_sheet as draw_sheet

__all__: list[str]
