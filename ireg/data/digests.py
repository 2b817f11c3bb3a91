"""Compare what is downloaded, unpacked or unpickled with its md5 and, if listed, its sha256.

The list is by the md5 that names a file in configurations. Two files of one md5 can be made on purpose, two of one
sha256 cannot, as far as anybody knows. An md5 that is not listed here, as that of a file of the user's own, is compared
alone. Of KMNIST's raw files no sha256 is listed: each must equal its verified ``.gz``.

Source: computed from MNIST's originals, this package's copies and scikit-learn's file; of other files the values that
TensorFlow Datasets, Keras and others publish, at least two of them alike.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from ireg.system.errors import UserError

SHA256: Mapping[str, str] = MappingProxyType(
    {
        # MNIST, packed: training images and labels, test images and labels.
        "f68b3c2dcbeaaa9fbdd348bbdeb94873": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "d53e105ee54ea40749a09fcbcd1e9432": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "9fb629c4189551a2d022fa330f9573f3": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "ec29112dd5afa0611ce80d1b7f02629c": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        # MNIST, unpacked; its first 10,000 training images and labels.
        "6bbc9ace898e44ae57da46a324031adb": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "a25bea736e30d166cdddb491f175f624": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "2646ac647ad5339dbf082846283269ea": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "27ae3e4e09519cfbb04c329615203637": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "63a563d3843dba5073e604e3a7990e87": "2889698e6bc3614913e76901316712919d1998fc2b44512451bfe65bc1e668b1",
        "e6ef65212ddc6f9010e22d95b5269050": "651e38e2ac0632f5113ec18f1df4977117f953197819034009971a6675a0df78",
        # Fashion-MNIST, packed.
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "25c81989df183df01b3e8a0aad5dffbe": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "bef4ecab320f06d8554ea6380940ec79": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "bb300cfdad3c16e7a12a480ee83cd310": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        # Fashion-MNIST, unpacked; its first 10,000 training images and labels.
        "f4a8712d7a061bf5bd6d2ca38dc4d50a": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "9018921c3c673c538a1fc5bad174d6f9": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "8181f5470baa50b63fa0f6fddb340f0a": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "15d484375f8d13e6eb1aabb0c3f46965": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "56cb151f02f7a0ea897b87493b6c7586": "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",
        "6017ecad9bfe54bba7fcc9dc44bdedd4": "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",
        # KMNIST, packed.
        "bdb82020997e1d708af4cf47b453dcf7": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e144d726b3acfaa3e44228e80efcd344": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "5c965bf0a639b31b8f53240b1b52f4d7": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "7320c461ea6c1c855c0b718fb2a4b134": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        # CIFAR-10: the archive, its five training batches, its test batch, batches.meta.
        "c58f30108f718f92721af3b95e74349a": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        "c99cafc152244af753f735de768cd75f": "54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
        "d4bba439e000b95fd0a9bffe97cbabec": "766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
        "54ebc095f3ab1f0389bbae665268c751": "0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
        "634d18415352ddfa80567beed471001a": "3f7bb240661948b8f4d53e36ec720d8306f5668bd0071dcb4e6c947f78e9682b",
        "482c414d41f54cd18b22e5b47cb7c3cb": "d91802434d8376bbaeeadf58a737e3a1b12ac839077e931237e0dcd43adcb154",
        "40351d587109b95175f43aff81a1287e": "f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
        "5ff9c542aee3614f3951f8cda6e48888": "f962466ef690d46b226450fb9aadc74ba4bc64a76aa526b5827fe4bc5c7125cb",
        # The digits, unpacked: scikit-learn's file; training images and labels, test images and labels.
        "a0339c30a8a5312a1b6f9e5c719dcce5": "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8",
        "7f0c9ab9939c9fa77b26579f61a1549e": "1192d80fb13b41bd405974e7276f8c82d0b32e4f26b229444c27b9e486971746",
        "cde1decbe58ddf5d702ae9ce67ea98eb": "f8a600b73e2c056aa42316260206e6643bd33e96bd71cfb8e32b94f76fac4f93",
        "da08d5789f963570ac9c625b0d055f9b": "80510fc9162448f4c8666335357ea127bd14ff20c9a09e20a09f3b8d96ef1ca3",
        "4ebe13fc8908fbebeac459f0aa9a6d68": "cf2c8a23974df0c99eb3f36ff34c02acb9be1c84aca7280211ef04bea1135360",
        # The plays, unpacked.
        "ea646106b3843ac52472a48a97de2b57": "8e88a1bc83268dadba655d126b42cb75397d7522dd96718ac46032ef0e4e4274",
    }
)
CHUNK = 2**20
"""Bytes that are read at once."""


def require(what: str, content: bytes | Path, md5: str, remedy: str) -> None:
    """Refuse what has another md5, or another sha256 where that is known.

    Args:
        what: the name of it in the message.
        content: the bytes, or the file that holds them.
        md5: the md5 it must have.
        remedy: what the user can do.

    Raises:
        UserError: it is another file, perhaps one that was made to have this md5.
        OSError: the file cannot be read.
    """
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        actual, sha256 = digests(file)
    if actual != md5:
        raise UserError(f"{what} has md5 {actual}, expected {md5}: {remedy}")
    if sha256 != SHA256.get(md5, sha256):
        raise UserError(f"{what} has the right md5 but sha256 {sha256}, expected {SHA256[md5]}: {remedy}")


def digests(file: BinaryIO) -> tuple[str, str]:
    """Return the md5 and the sha256 of the rest of a file."""
    # An md5 finds damage here and guards no secret; the flag lets it run where security policy forbids md5.
    md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
    while chunk := file.read(CHUNK):
        md5.update(chunk)
        sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()
