from .decoding import decode as decode
from .decoding import image_format as image_format
from .listing import list_source as list_source
<<<<<<< HEAD
from .remembered import KEPT as KEPT
from .remembered import PastListing as PastListing
from .remembered import kept_columns as kept_columns
from .remembered import place_of as place_of
from .remembered import same_listing as same_listing
=======
from .selection import Where as Where
>>>>>>> main
from .source import MAX_BYTES as MAX_BYTES
from .source import ImageSource as ImageSource
from .source import check_bytes as check_bytes
from .source import notes_of as notes_of
from .source import read_local as read_local
from .source import read_url as read_url
from .sources import SOURCES as SOURCES
from .sources import open_source as open_source
from .split import SIDES as SIDES
from .split import image_id as image_id
from .split import split_of as split_of
from .split import splits_of as splits_of
