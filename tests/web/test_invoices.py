"""Documents leave the admin listener as they were issued, or not at all."""

import hashlib

import pytest
from aiohttp import web
from sqlalchemy import text

from proxy.web.invoices import DocumentRoutes
from tests.billing.invoices.support import Desk
from tests.support.tampering import unguard


@pytest.fixture
async def desk(database):
    desk = Desk(database)
    for name in ("acme", "other"):
        await desk.use(await desk.account(name), "2026-11-05")
    await desk.issue("2026-11")
    return desk


@pytest.fixture
async def client(desk, aiohttp_client):
    app = web.Application()
    app.add_routes(DocumentRoutes(desk.database).routes())
    return await aiohttp_client(app)


async def test_documents_of_a_month_or_an_account_are_listed(client):
    answer = await client.get("/invoices?month=2026-11")
    assert [each["number"] for each in await answer.json()] == ["F-2026-000001", "F-2026-000002"]
    answer = await client.get("/invoices?account=other")
    (info,) = await answer.json()
    assert (info["account"], info["net_cents"], info["stands"]) == ("other", 380, True)
    assert await (await client.get("/invoices?month=2026-10")).json() == []


async def test_a_document_and_its_files_are_handed_out_byte_for_byte(client, desk):
    stored = await desk.invoices.read("F-2026-000001")
    document = await (await client.get("/invoices/F-2026-000001")).json()
    assert document["document"]["number"] == "F-2026-000001"
    assert document["pdf_sha256"] == hashlib.sha256(stored.pdf).hexdigest()
    for suffix, content, kind in (("pdf", stored.pdf, "application/pdf"), ("xml", stored.xml, "application/xml")):
        answer = await client.get(f"/invoices/F-2026-000001.{suffix}")
        assert (answer.status, answer.content_type, await answer.read()) == (200, kind, content)
        assert answer.headers["Content-Disposition"] == f'attachment; filename="F-2026-000001.{suffix}"'
        tag = answer.headers["ETag"]
        assert tag == f'"{hashlib.sha256(content).hexdigest()}"'
        again = await client.get(f"/invoices/F-2026-000001.{suffix}", headers={"If-None-Match": tag})
        assert (again.status, await again.read()) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/invoices", 400, "at least one"),
        ("/invoices?month=2026-13", 400, "not a month"),
        ("/invoices?account=nobody", 404, "no account named"),
        ("/invoices/F-2026-000009", 404, "no document 'F-2026-000009'"),
        ("/invoices/F-2026-000009.pdf", 404, "no document 'F-2026-000009'"),
        ("/invoices/F-2026-000001.docx", 404, "there is no 'F-2026-000001.docx'"),
    ],
)
async def test_what_there_is_not_is_told(client, path, status, why):
    answer = await client.get(path)
    assert answer.status == status
    assert why in (await answer.json())["error"]


async def test_a_file_that_is_not_what_was_issued_is_not_handed_out(client, database):
    await unguard(database, "invoices")
    async with database.write() as connection:
        await connection.execute(text("UPDATE invoices SET pdf_sha256 = xml_sha256"))
    answer = await client.get("/invoices/F-2026-000001.pdf")
    assert answer.status == 500
    assert "is not what was issued" in (await answer.json())["error"]
