"""Seller and buyer in CII (BG-4, BG-7).

What belongs here: identifiers, addresses and electronic addresses as EN 16931 and the French rules (BR-FR) want them.
"""

from typing import Final

from proxy.billing.documents.elements import Element, element, optional
from proxy.core.parties import Address, Buyer, Seller

SIREN_SCHEME: Final = "0002"
SIRET_SCHEME: Final = "0009"
DIRECTORY_SCHEME: Final = "0225"
"""An address in the French directory of receivers: begins with the SIREN."""
EMAIL_SCHEME: Final = "EM"


def seller_element(seller: Seller) -> Element:
    """Make the seller (BG-4)."""
    return element(
        "SellerTradeParty",
        element("GlobalID", text=seller.siret, schemeID=SIRET_SCHEME) if seller.siret else None,
        element("Name", text=seller.name),
        element("Description", text=f"{seller.legal_form}, capital {seller.capital}, RCS {seller.rcs} {seller.siren}"),
        element("SpecifiedLegalOrganization", element("ID", text=seller.siren, schemeID=SIREN_SCHEME)),
        _contact(seller),
        _address(seller.address),
        electronic_address(seller.siren, seller.email),
        _vat_registration(seller.vat_number),
    )


def buyer_element(buyer: Buyer) -> Element:
    """Make the buyer (BG-7)."""
    legal = element("SpecifiedLegalOrganization", element("ID", text=buyer.siren, schemeID=SIREN_SCHEME))
    return element(
        "BuyerTradeParty",
        element("GlobalID", text=buyer.siret, schemeID=SIRET_SCHEME) if buyer.siret else None,
        element("Name", text=buyer.name),
        legal if buyer.siren else None,
        _address(buyer.address),
        electronic_address(buyer.siren, buyer.email),
        _vat_registration(buyer.vat_number) if buyer.vat_number else None,
    )


def electronic_address(siren: str, email: str) -> Element | None:
    """Make where a document is sent to (BT-34, BT-49): the directory by SIREN, else an e-mail address.

    BR-FR wants one of everybody; who has neither is found by its rules (BR-FR-12).
    """
    if siren:
        return element("URIUniversalCommunication", element("URIID", text=siren, schemeID=DIRECTORY_SCHEME))
    if email:
        return element("URIUniversalCommunication", element("URIID", text=email, schemeID=EMAIL_SCHEME))
    return None


def _contact(seller: Seller) -> Element:
    """Make whom to ask (BG-6)."""
    phone = optional("CompleteNumber", seller.phone)
    return element(
        "DefinedTradeContact",
        element("TelephoneUniversalCommunication", phone) if phone is not None else None,
        element("EmailURIUniversalCommunication", element("URIID", text=seller.email)),
    )


def _address(address: Address) -> Element:
    """Make a postal address (BG-5, BG-8): up to three lines."""
    names = ("LineOne", "LineTwo", "LineThree")
    return element(
        "PostalTradeAddress",
        optional("PostcodeCode", address.postcode),
        *(optional(name, line) for name, line in zip(names, address.lines, strict=False)),
        optional("CityName", address.city),
        element("CountryID", text=address.country),
    )


def _vat_registration(vat_number: str) -> Element:
    """Make a VAT identifier (BT-31, BT-48)."""
    return element("SpecifiedTaxRegistration", element("ID", text=vat_number, schemeID="VA"))
