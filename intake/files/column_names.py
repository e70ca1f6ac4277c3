"""Names that files give to columns and event types, in the languages that shops most often use."""

import re
import unicodedata

REMOVE_FROM_CART = "remove_from_cart"  # events.toml declares it

# Most telling first, as `words` writes them.
NAMES = {
    "user_id": "user_id userid user customer_id customerid customer client_id client visitor_id"
    " visitorid member_id household_id household_key household account_id shopper_id buyer_id uid"
    " customer_number customer_no kundennummer kunden_nr kundennr kunden_id kunde kaeufer"
    " mitgliedsnummer id_client numero_client code_client id_cliente numero_cliente cliente"
    " codice_cliente id_klienta nr_klienta klient klantnummer klant"
    " email e_mail email_address customer_email e_mail_adresse",
    "event_time": "event_time eventtime timestamp event_timestamp transaction_timestamp datetime"
    " date_time time action_time created_at occurred_at ordered_at purchased_at bought_at ts"
    " invoice_date invoicedate order_date purchase_date transaction_date date_created date seconds"
    " zeitpunkt zeitstempel bestelldatum kaufdatum rechnungsdatum belegdatum datum"
    " horodatage date_heure date_commande date_de_commande date_achat"
    " fecha_hora fecha_pedido fecha_compra fecha data_ora data_ordine data_zamowienia besteldatum"
    " data",
    "event_type": "event_type eventtype event_name event action behavior_type behaviour_type"
    " behavior behaviour activity type ereignis aktion vorgang",
    "event_id": "event_id eventid uuid transaction_id transactionid line_id row_id id",
    "item_id": "item_id itemid product_id productid product item sku sku_id stock_code stockcode"
    " asin article_id article artikelnummer artikel_nr artikelnr artikel_id produktnummer"
    " produkt_id artikel produkt id_produit code_article reference produit id_producto producto"
    " articulo referencia codice_articolo prodotto articolo towar",
    "category_id": "category_id categoryid category product_category category_code department"
    " cate cate_id warengruppe produktgruppe kategorie categorie"
    " rayon famille categoria seccion reparto kategoria productgroep",
    "price": "price unit_price unitprice einzelpreis stueckpreis preis prix_unitaire prix"
    " precio_unitario precio prezzo_unitario prezzo cena_jednostkowa cena stukprijs prijs",
    "quantity": "quantity qty units count menge anzahl stueckzahl quantite qte cantidad unidades"
    " quantita ilosc aantal",
    "amount": "amount total sales_value line_total revenue total_price value sales"
    " gesamtpreis positionsbetrag betrag gesamtbetrag umsatz summe montant_total montant"
    " prix_total importe_total importe importo totale wartosc kwota bedrag totaal",
    "rating": "rating stars bewertung_sterne",
    "text": "review review_text text comment",
    "query": "query search search_term keyword keywords suchbegriff",
    "session_id": "session_id sessionid user_session session basket_id order_id orderid order_no"
    " order_number receipt receipt_id invoice invoice_no invoiceno visit_id"
    " bestellnummer bestell_nr bestellnr auftragsnummer rechnungsnummer belegnummer bonnummer"
    " bestellung numero_commande numero_de_commande commande ticket id_pedido numero_pedido pedido"
    " numero_ordine ordine nr_zamowienia zamowienie ordernummer bestelnummer order",
    "device_id": "device_id deviceid device",
    "channel": "channel kanal vertriebskanal canal canale",
    "coupon_id": "coupon_id coupon coupon_upc voucher coupon_code gutschein gutscheincode"
    " code_promo cupon",
    "campaign_id": "campaign_id campaign kampagne",
    "friend_id": "friend_id friend",
    "anonymous_id": "anonymous_id anonymousid anon_id anonymous_user_id",
    "place.lat": "lat latitude",
    "place.lon": "lon lng long longitude",
}  # fmt: skip
TYPES = {
    "view": "view pv page_view pageview click detail impression visit ansicht aufruf vue vista",
    "cart": "cart add_to_cart addtocart basket add warenkorb panier carrito carrello koszyk",
    "favorite": "favorite favourite fav wishlist like merkzettel wunschliste favori favorito",
    "purchase": "purchase buy order transaction checkout sale sold paid kauf bestellung achat"
    " compra acquisto zakup",
    "return": "return refund returned retoure rueckgabe storno retour devolucion reso zwrot",
    "review": "review rate rating comment bewertung avis",
    "search": "search query suche recherche busqueda",
    "share": "share",
    "follow": "follow",
    "coupon": "coupon redeem redemption voucher",
    "campaign": "campaign",
    REMOVE_FROM_CART: "remove_from_cart removefromcart remove_cart cart_remove delete_from_cart"
    " delete_cart product_removed",
    "login": "login log_in signin sign_in anmeldung connexion",
}
# What else stands in a name: before it the subject, after it the currency or the kind of price.
SUBJECTS = frozenset({"line", "lineitem", "item", "product", "order"})
KINDS = (
    "eur euro usd gbp chf pln sek nok dkk ttc ht brutto netto gross net incl excl vat gmt utc local"
)
_LETTERS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "ł": "l", "ø": "o"})
FIELD_OF_NAME = {name: field for field, names in NAMES.items() for name in names.split()}
TYPE_OF_NAME = {name: kind for kind, names in TYPES.items() for name in names.split()}


def words(name: str) -> str:
    """user_id, userId, User ID and USER-ID become user_id; Käufer (neu) becomes kaeufer_neu."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower().translate(_LETTERS)
    plain = "".join(
        char for char in unicodedata.normalize("NFKD", split) if not unicodedata.combining(char)
    )
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def telling_name(column: str) -> str | None:
    """The name of NAMES that a column has, as a whole or without such words; None: it has none."""
    parts = words(column).split("_")
    while parts and "_".join(parts) not in FIELD_OF_NAME:
        if parts[-1] in KINDS.split():
            parts.pop()
        elif parts[0] in SUBJECTS:
            parts.pop(0)
        else:
            return None
    return "_".join(parts) or None


def fields_by_name(columns: list[str]) -> dict[str, str]:
    """The column of each field whose name tells it; of several the most telling."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if name := telling_name(column):
            found.setdefault(FIELD_OF_NAME[name], []).append(column)
    order = list(FIELD_OF_NAME)
    return {
        field: min(names, key=lambda column: order.index(telling_name(column) or ""))
        for field, names in found.items()
    }
